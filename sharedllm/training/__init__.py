"""Training of adapters for lower and upper model (extra ``[train]``); not used at run time."""
