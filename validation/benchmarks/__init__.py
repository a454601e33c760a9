"""Commands that measure and print the tables of the measurements in docs; tests do not time anything."""

from seap_export.common.threads import spin_briefly

spin_briefly()
