"""What an optimizer is: rules, options, states, checkpoints and steps."""
