"""The commands of `seap-export`, each in a file of its name."""
