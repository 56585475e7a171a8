"""What all host code stands on: the user's error, whole files, locks, hashes, differences, near names.

Every package may import it, except ``simulators``, which is lent to another Python and stands alone.
"""
