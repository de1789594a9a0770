"""The engines: what turns a job's token ids into events. They share one port and one suite."""
