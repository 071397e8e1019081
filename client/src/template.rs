//! Go's templates (text/template), as the option `--format` takes them.
