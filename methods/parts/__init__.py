"""What several methods share: gates, dispatch, experts, exits."""
