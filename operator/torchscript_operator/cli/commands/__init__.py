"""The commands by subject: options, and one call for each. What takes long to import is imported when it is used."""
