"""The house rules, as tests: who imports whom, what is shipped, how long things are, and what the documents say."""
