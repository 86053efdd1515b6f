package state

import (
	"fmt"
	"strconv"
	"unsafe"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"
)

// timeOfDay is SYSTEM_TIMEOFDAY_INFORMATION; times in 100 ns.
type timeOfDay struct {
	BootTime, CurrentTime, TimeZoneBias int64
	TimeZoneID, Reserved                uint32
	BootTimeBias, SleepTimeBias         uint64
}

// bootID is the moment of the boot as the clock showed it then: when somebody
// sets the clock the kernel moves BootTime and BootTimeBias alike.
func bootID() (string, error) {
	var t timeOfDay
	err := windows.NtQuerySystemInformation(windows.SystemTimeOfDayInformation,
		unsafe.Pointer(&t), uint32(unsafe.Sizeof(t)), nil)
	if err != nil {
		return "", fmt.Errorf("system time of day: %w", err)
	}
	machine, err := machineID()
	if err != nil {
		return "", err
	}
	return machine + "/" + strconv.FormatInt(t.BootTime-int64(t.BootTimeBias), 10), nil
}

func machineID() (string, error) {
	return registryString(`SOFTWARE\Microsoft\Cryptography`, "MachineGuid")
}

func osRelease() string {
	const workstation = 1 // VER_NT_WORKSTATION
	const key = `SOFTWARE\Microsoft\Windows NT\CurrentVersion`
	v := windows.RtlGetVersion()
	name, err := registryString(key, "ProductName")
	// ProductName still says "Windows 10" on Windows 11, which is told by its build.
	if v.ProductType == workstation && v.BuildNumber >= 22000 {
		name, err = "Windows 11", nil
	}
	if err != nil {
		name = "Windows"
	}
	return fmt.Sprintf("%s (%d.%d.%d)", name, v.MajorVersion, v.MinorVersion, v.BuildNumber)
}

func registryString(path, name string) (string, error) {
	k, err := registry.OpenKey(registry.LOCAL_MACHINE, path, registry.QUERY_VALUE|registry.WOW64_64KEY)
	if err != nil {
		return "", fmt.Errorf(`HKLM\%s: %w`, path, err)
	}
	defer k.Close()
	s, _, err := k.GetStringValue(name)
	if err != nil {
		return "", fmt.Errorf(`HKLM\%s %s: %w`, path, name, err)
	}
	return s, nil
}
