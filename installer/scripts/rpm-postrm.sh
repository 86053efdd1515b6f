reload # rpm knows no purge: what is left then stands in docs/installers.md
