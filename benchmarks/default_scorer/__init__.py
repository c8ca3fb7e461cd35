"""Training of the default scorer's network: collections of train/, and the loss over leaves."""
