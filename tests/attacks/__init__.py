"""Attacks, really carried out: each test says what the attacker tries, and sees that nothing comes of it."""
