"""The kinds of claims: a module for each, which declares what its query asks for and how that is measured (ClaimKind)."""
