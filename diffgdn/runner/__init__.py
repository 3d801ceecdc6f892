"""Where an answer is computed: in this process, or in a child that is watched."""
