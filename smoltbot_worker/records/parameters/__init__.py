"""The arguments of the database functions, one module for each area of them."""
