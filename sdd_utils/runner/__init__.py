"""Training that survives: files, locks, resume, many experiments at a time, one machine or many. See README.md."""
