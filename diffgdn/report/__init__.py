"""Listen to a campaign: what its events look like on a screen and in a file."""
