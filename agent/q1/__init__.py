"""The Q1 family: one engine for the UPSes that answer a short question with a line of numbers; dialects are tables.

`form` reads an answer, `dialects` lists who asks what, `meaning` makes a Status of it, `orders` writes orders, `unit`
is a connected UPS. What an answer says are **facts**: short names with values, the same in every dialect.
"""
