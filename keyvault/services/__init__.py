"""The only writers of keyvault's rows. Each function either does all it says or raises and does nothing."""
