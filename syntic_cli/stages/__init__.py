"""The stages: one file a subcommand; each reads artifacts, calls method and models, and writes."""
