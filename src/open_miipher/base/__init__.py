"""The base of all packages: errors, paths, atomic writing, the registry, seeded noise."""
