"""Pictures of what a network says."""
