"""The model card of a variant, and the settings file that makes the variant again."""
