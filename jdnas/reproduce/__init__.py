"""The paper's tables and figures, one function each: what to train, and how the results are laid out."""
