"""A question -> scored nodes -> selected nodes -> passages and citations."""
