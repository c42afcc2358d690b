"""The command line, `refbench`. Modules here import little: the work is imported when a command runs."""
