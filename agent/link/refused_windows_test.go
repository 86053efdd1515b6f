package link_test

import "golang.org/x/sys/windows"

// refused is what the platform calls a refused connection.
const refused = windows.WSAECONNREFUSED
