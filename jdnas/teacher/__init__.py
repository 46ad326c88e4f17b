"""The elastic teacher pool: one shared state, trained once, from which teachers of many sizes are cut."""
