"""What operators do: see how flows stand, read dead letters, replay them; the same for every front end."""
