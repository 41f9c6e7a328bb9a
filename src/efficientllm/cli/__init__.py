"""The command line: one subcommand, one file. The only room that joins the two wings."""
