"""What everything stands on: errors, names and files, plain data to parts, seeded noise."""
