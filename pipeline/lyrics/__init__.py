"""The bytes of a lyrics file become clean lines, headers, times, and the reasons for what was dropped."""
