"""The catalogue of bad inputs, B01 to B65, as rows that ask a running server (docs/inputs.md)."""
