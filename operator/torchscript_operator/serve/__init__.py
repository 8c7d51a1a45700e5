"""The serving pod: loads one proven artifact and answers requests with it."""
