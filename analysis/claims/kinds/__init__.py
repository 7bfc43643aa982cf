"""The kinds of claims: each declares what its query asks for and how that is measured (ClaimKind)."""
