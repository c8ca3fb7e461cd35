"""A question -> scored nodes -> selected passages."""
