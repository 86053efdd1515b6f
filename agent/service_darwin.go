package agent

func newManager() (manager, error) { return launchd{root: "/", run: command}, nil }
