"""The live page: studies as they run, followed in any browser. `study.serve` is its command."""
