"""The operators on diffusers' UNets, for scripts. Only the modules in here import diffusers."""
