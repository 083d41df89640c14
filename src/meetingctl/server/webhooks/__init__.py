"""Tell other systems what happened: signed POST requests, retried until they arrive."""
