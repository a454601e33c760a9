"""The side of parity that is compared with torch: written folders, each in a runtime that runs it."""
