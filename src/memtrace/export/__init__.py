"""Other tools' formats: one file per format."""
