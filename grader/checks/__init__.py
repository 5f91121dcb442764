"""One module an incident: what must hold, decided from evidence."""
