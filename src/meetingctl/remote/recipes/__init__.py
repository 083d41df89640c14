"""Ordered work on one device, with root: facts are read, a plan is made, its steps are carried out one by one.

connection  the one place that builds a fabric connection: pinned host key, one password
session     the link, opened again when it was lost
link        questions, commands with root and files over such a connection
bundle      the package file
transfer    a large file, sent on from where an earlier try ended
unit        the transient unit that outlives the connection: started, followed
facts       what an installation has to know of a device, in one round trip
plan        facts and wishes in, steps out
meeting     texts of meeting.json, config.env and /etc/hosts as they should be
steps       what each step does
install     the whole: connect, plan, carry out, connect again, verify
"""
