"""The report of a run: one HTML page, with figures and maps inside."""
