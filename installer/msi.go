package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"gururmm/agent"
)

// The package for Windows: a database of Windows Installer, described here table by table
// (learn.microsoft.com/windows/win32/msi/database-tables) and written by msibuild, around a
// cabinet by gcab. Both are Debian's, and run where no Windows is.
//
// Rules that hold here:
//   - Windows' own mechanisms do what they can: service, versions, registry. What they can't,
//     the program does that is brought (agent/msi_windows.go), as SYSTEM;
//   - a token is a hidden property, and in the command line of one hidden action alone;
//   - identities are made of names, so that the same release is the same product;
//   - what refuses does so in LaunchCondition, before anything is changed.

// msiTools write a package, and what of Debian has them.
var msiTools = map[string]string{"msibuild": "msitools", "gcab": "gcab"}

// haveMSITools says what is missing here to write a package.
func haveMSITools() error {
	for _, tool := range slices.Sorted(maps.Keys(msiTools)) {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("msi: %s is missing; Debian has it in %s. To do without: --formats deb,rpm,pkg", tool, msiTools[tool])
		}
	}
	return nil
}

// msiArchs are the processors as the package's template and its file's name have them.
var msiArchs = map[string]struct{ template, name string }{
	"amd64": {"x64", "x64"},
	"arm64": {"Arm64", "arm64"},
}

// upgradeCode is what all versions for all processors have in common. Never to be changed:
// a package would no longer know those before it.
var upgradeCode = guid("upgrade")

// Names in the database. Folders' names are not in capitals: such ones could be set on a command
// line, and what SYSTEM runs must lie where Windows lets administrators alone write.
const (
	msiProgram  = "gururmm-agent.exe"
	msiFile     = "agent.exe" // key of the program, and its name in the cabinet
	msiCabinet  = "agent.cab"
	programDir  = "InstallFolder"
	partProgram = "Program"     // component
	olderFound  = "OLDER_FOUND" // properties
	newerFound  = "NEWER_FOUND"
	serviceThat = "SERVICE_FOUND"
)

// Types of custom actions (learn.microsoft.com/windows/win32/msi/summary-list-of-all-custom-action-types).
const (
	runInstalled = 18     // a program that the package brings
	runFrom      = 34     // a command line, in a folder
	goOn         = 0x40   // whatever comes of it
	onRollback   = 0x100  // with deferred
	deferred     = 0x400  // in the transaction
	asSystem     = 0x800  // and not as who started it
	hideTarget   = 0x2000 // no log has the command line
)

// Attributes, events and settings as Windows Installer numbers them.
const (
	component64      = 0x100
	fileVital        = 0x200
	upgradeMigrate   = 0x1
	upgradeMaxToo    = 0x200
	localMachine     = 2
	registryRaw64    = 2 | 16 // a value, in the registry of 64 bits
	serviceOwn       = 0x10
	serviceAutomatic = 2
	errorNormal      = 1
	stopAtInstall    = 0x2
	stopAtRemoval    = 0x20
	deleteAtRemoval  = 0x80
)

// table is one of the database, as a text archive (.idt) has it.
type table struct {
	name    string
	columns string // NAME TYPE, with commas between; see "Column Definition Format"
	keys    int    // of columns, the first so many
	rows    [][]any
}

func (t table) idt() []byte {
	var names, types []string
	for column := range strings.SplitSeq(t.columns, ", ") {
		name, kind, _ := strings.Cut(column, " ")
		names, types = append(names, name), append(types, kind)
	}
	lines := []string{strings.Join(names, "\t"), strings.Join(types, "\t"), strings.Join(append([]string{t.name}, names[:t.keys]...), "\t")}
	for _, row := range t.rows {
		var fields []string
		for _, field := range row {
			fields = append(fields, fmt.Sprint(field))
		}
		lines = append(lines, strings.Join(fields, "\t"))
	}
	return []byte(strings.Join(lines, "\r\n") + "\r\n")
}

// product is what differs between two packages.
type product struct {
	order
	arch string // as Go names it
	size int64  // of the program, in bytes
	sum  string // of the program
}

// msiVersion is the version as Windows Installer compares it: a.b.c. It knows no forerunners:
// 1.2.3-rc.1 is 1.2.3 to it, and each of both takes the place of the other.
func (o order) msiVersion() (string, error) {
	release, _, _ := strings.Cut(o.bare(), "-")
	var major, minor, patch uint
	if _, err := fmt.Sscanf(release, "%d.%d.%d", &major, &minor, &patch); err != nil || major > 255 || minor > 255 || patch > 65535 {
		return "", fmt.Errorf("version %s: Windows Installer knows them up to 255.255.65535", release)
	}
	return release, nil
}

// guid is an identity made of words, as Windows writes it.
func guid(words ...string) string {
	return "{" + strings.ToUpper(uuid("gururmm msi "+strings.Join(words, " "))) + "}"
}

// tables is the whole database.
func (p product) tables() ([]table, error) {
	version, err := p.msiVersion()
	if err != nil {
		return nil, err
	}
	name := agent.ServiceTitle + " " + p.bare()
	const (
		stays     = `NOT REMOVE~="ALL"`
		changes   = "REINSTALL OR " + olderFound + " OR " + newerFound // what is installed
		installed = `"[` + programDir + "]" + msiProgram + `" `        // as far as it is there
	)
	const sequence = "Action s72, Condition S255, Sequence I2"
	costs := [][]any{{"CostInitialize", "", 800}, {"FileCost", "", 900}, {"CostFinalize", "", 1000}}
	looks := [][]any{{"FindRelatedProducts", "", 25}, {"AppSearch", "", 50}, {"LaunchConditions", "", 100}}
	stamp := p.when.Format("2006/01/02 15:04:05")
	return []table{
		{"_SummaryInformation", "PropertyId i2, Value l255", 1, [][]any{
			{1, 1252}, {2, "Installation Database"}, {3, name}, {4, vendor}, {5, "Installer"}, {6, "Installs " + name},
			{7, msiArchs[p.arch].template + ";1033"}, {9, guid("package", p.version, p.arch, p.sum)},
			{12, stamp}, {13, stamp}, {14, 500}, {15, 2}, {18, "gururmm installer"}, {19, 2},
		}},
		{"Property", "Property s72, Value l0", 1, [][]any{
			{"ProductName", name}, {"ProductVersion", version}, {"Manufacturer", vendor}, {"ProductLanguage", 1033},
			{"ProductCode", guid("product", p.version, p.arch)}, {"UpgradeCode", upgradeCode},
			{"ALLUSERS", 1}, {"ARPNOMODIFY", 1},
			{"MSIRESTARTMANAGERCONTROL", "Disable"}, // it would end the agent's processes, which start each other again; StopBefore ends all
			{"SecureCustomProperties", "SERVER_URL;ENROLL_TOKEN;TOKEN_FILE;PIN;CA_FILE;PURGE;ALLOW_DOWNGRADE;" + olderFound + ";" + newerFound + ";" + serviceThat},
			{"MsiHiddenProperties", "ENROLL_TOKEN"},
		}},
		{"Directory", "Directory s72, Directory_Parent S72, DefaultDir l255", 1, [][]any{
			{"TARGETDIR", "", "SourceDir"},
			{"ProgramFiles64Folder", "TARGETDIR", "."}, {programDir, "ProgramFiles64Folder", "GuruRMM"},
		}},
		{"Feature", "Feature s38, Feature_Parent S38, Title L64, Description L255, Display I2, Level i2, Directory_ S72, Attributes i2", 1, [][]any{
			{"Agent", "", agent.ServiceTitle, agent.ServiceDescription, 1, 1, "", 8 | 16}, // neither advertised nor left out
		}},
		{"Component", "Component s72, ComponentId S38, Directory_ s72, Attributes i2, Condition S255, KeyPath S72", 1, [][]any{
			{partProgram, guid(partProgram, p.arch), programDir, component64, "", msiFile},
		}},
		{"FeatureComponents", "Feature_ s38, Component_ s72", 2, [][]any{{"Agent", partProgram}}},
		{"File", "File s72, Component_ s72, FileName l255, FileSize i4, Version S72, Language S20, Attributes I2, Sequence i2", 1, [][]any{
			{msiFile, partProgram, "GURURM~1.EXE|" + msiProgram, p.size, "", "", fileVital, 1},
		}},
		{"Media", "DiskId i2, LastSequence i2, DiskPrompt L64, Cabinet S255, VolumeLabel S32, Source S72", 1, [][]any{{1, 1, "", "#" + msiCabinet, "", ""}}},
		{"Registry", "Registry s72, Root i2, Key l255, Name L255, Value L0, Component_ s72", 1, [][]any{
			{"Package", localMachine, `SOFTWARE\GuruRMM\Agent`, "Package", p.bare(), partProgram}, // read by agent/msi_windows.go
			{"EventSource", localMachine, `SYSTEM\CurrentControlSet\Services\EventLog\Application\` + agent.ServiceName, "EventMessageFile", `#%%SystemRoot%\System32\EventCreate.exe`, partProgram},
			{"EventTypes", localMachine, `SYSTEM\CurrentControlSet\Services\EventLog\Application\` + agent.ServiceName, "TypesSupported", "#7", partProgram},
			{"EventCustom", localMachine, `SYSTEM\CurrentControlSet\Services\EventLog\Application\` + agent.ServiceName, "CustomSource", "#1", partProgram},
		}},
		// =-*: of the machine, made and removed; [~] stands for what is there.
		{"Environment", "Environment s72, Name l255, Value L255, Component_ s72", 1, [][]any{{"Path", "=-*PATH", "[~];[" + programDir + "]", partProgram}}},
		{"ServiceInstall", "ServiceInstall s72, Name s255, DisplayName L255, ServiceType i4, StartType i4, ErrorControl i4, LoadOrderGroup S255, Dependencies S255, StartName S255, Password S255, Arguments S255, Component_ s72, Description L255", 1, [][]any{
			{"Service", agent.ServiceName, agent.ServiceTitle, serviceOwn, serviceAutomatic, errorNormal, "", "", "", "", strings.Join(agent.Service{}.Args(), " "), partProgram, agent.ServiceDescription},
		}},
		// Configured and started it is by the program: MsiServiceConfigFailureActions "is not working as
		// expected", says the page of MsiConfigureServices, and who starts knows whether it is to be.
		{"ServiceControl", "ServiceControl s72, Name l255, Event i2, Arguments S255, Wait I2, Component_ s72", 1, [][]any{
			{"Service", agent.ServiceName, stopAtInstall | stopAtRemoval | deleteAtRemoval, "", 1, partProgram},
		}},
		{"CustomAction", "Action s72, Type i2, Source S72, Target S255, ExtendedType I4", 1, [][]any{
			{"NoteService", runFrom | deferred | asSystem | goOn, programDir, installed + "msi note", ""},
			{"StartAgain", runFrom | deferred | onRollback | asSystem | goOn, programDir, installed + "msi finish", ""},
			{"StopBefore", runFrom | deferred | asSystem | goOn, programDir, installed + "stop", ""},
			{"Configure", runInstalled | deferred | asSystem, msiFile, "msi configure", ""},
			{"DropOrder", runInstalled | deferred | onRollback | asSystem | goOn, msiFile, "msi drop-order", ""},
			{"OrderToEnroll", runInstalled | deferred | asSystem | hideTarget, msiFile, `msi order "SERVER_URL=[SERVER_URL]" "ENROLL_TOKEN=[ENROLL_TOKEN]" "TOKEN_FILE=[TOKEN_FILE]" "PIN=[PIN]" "CA_FILE=[CA_FILE]"`, ""},
			{"Finish", runInstalled | deferred | asSystem | goOn, msiFile, "msi finish", ""},
			{"Purge", runInstalled | deferred | asSystem | goOn, msiFile, "msi purge", ""},
		}},
		{"Upgrade", "UpgradeCode s38, VersionMin S20, VersionMax S20, Language S255, Attributes i4, Remove S255, ActionProperty s72", 5, [][]any{
			{upgradeCode, "", version, "", upgradeMigrate | upgradeMaxToo, "", olderFound},
			{upgradeCode, version, "", "", upgradeMigrate, "", newerFound},
		}},
		{"AppSearch", "Property s72, Signature_ s72", 2, [][]any{{serviceThat, "Service"}}},
		{"RegLocator", "Signature_ s72, Root i2, Key s255, Name S255, Type I2", 1, [][]any{
			{"Service", localMachine, `SYSTEM\CurrentControlSet\Services\` + agent.ServiceName, "ImagePath", registryRaw64},
		}},
		{"LaunchCondition", "Condition s255, Description l255", 1, [][]any{
			{"Installed OR ALLOW_DOWNGRADE OR NOT " + newerFound, "NOT INSTALLED, nothing was changed: a newer version is there. An older one need not understand what a newer one wrote, and may lack what was mended since. If that is meant: ALLOW_DOWNGRADE=1"},
			{"Installed OR " + olderFound + " OR " + newerFound + " OR NOT " + serviceThat, "NOT INSTALLED, nothing was changed: a service " + agent.ServiceName + " is there and not this package's: one installed by hand (gururmm-agent uninstall, which keeps identity and state), or another one of that name: [" + serviceThat + "]"},
			{"(SERVER_URL AND (ENROLL_TOKEN XOR TOKEN_FILE)) OR NOT (SERVER_URL OR ENROLL_TOKEN OR TOKEN_FILE OR PIN OR CA_FILE)", "NOT INSTALLED, nothing was changed: to enroll it takes SERVER_URL=https://HOST:8443 and ENROLL_TOKEN or TOKEN_FILE, one of both"},
		}},
		{"InstallUISequence", sequence, 1, slices.Concat(looks, costs, [][]any{{"ExecuteAction", "", 1300}})},
		{"InstallExecuteSequence", sequence, 1, slices.Concat(looks, costs, [][]any{
			{"InstallValidate", "", 1400},
			{"InstallInitialize", "", 1500},
			// How the service was must be known before the version before is removed, and the service with it.
			// It is stopped here already because the program waits until it is.
			{"NoteService", "(Installed OR " + changes + ") AND " + stays, 1510},
			{"StartAgain", changes, 1520},
			{"StopBefore", changes, 1530},
			{"InstallExecute", changes, 1540},
			{"RemoveExistingProducts", "", 1550},
			{"ProcessComponents", "", 1600},
			{"UnpublishFeatures", "", 1800},
			{"StopServices", "", 1900},
			{"DeleteServices", "", 2000},
			{"RemoveRegistryValues", "", 2600},
			{"RemoveEnvironmentStrings", "", 3300},
			{"Purge", `REMOVE~="ALL" AND PURGE AND NOT UPGRADINGPRODUCTCODE`, 3400},
			{"RemoveFiles", "", 3500},
			{"InstallFiles", "", 4000},
			{"WriteRegistryValues", "", 5000},
			{"WriteEnvironmentStrings", "", 5200},
			{"InstallServices", "", 5800},
			{"Configure", "NOT Installed OR REINSTALL", 5850},
			// Not at a repair, which Windows lets everybody order: what SYSTEM enrolls with, and which
			// file it removes, are for administrators.
			{"DropOrder", "SERVER_URL AND NOT Installed", 5880},
			{"OrderToEnroll", "SERVER_URL AND NOT Installed", 5890},
			{"RegisterProduct", "", 6100},
			{"PublishFeatures", "", 6300},
			{"PublishProduct", "", 6400},
			{"Finish", stays, 6500},
			{"InstallFinalize", "", 6600},
		})},
		// Group policy assigns by the first, `msiexec /a` unpacks by the second.
		{"AdvtExecuteSequence", sequence, 1, [][]any{
			{"CostInitialize", "", 800}, {"CostFinalize", "", 1000}, {"InstallValidate", "", 1400}, {"InstallInitialize", "", 1500},
			{"PublishFeatures", "", 6300}, {"PublishProduct", "", 6400}, {"InstallFinalize", "", 6600},
		}},
		{"AdminExecuteSequence", sequence, 1, slices.Concat(costs, [][]any{
			{"InstallValidate", "", 1400}, {"InstallInitialize", "", 1500}, {"InstallAdminPackage", "", 3900}, {"InstallFiles", "", 4000}, {"InstallFinalize", "", 6600},
		})},
	}, nil
}

// windowsPackage builds the agent for arch, into stage, and the package of it.
func windowsPackage(ctx context.Context, o order, stage, arch string) (made []string, err error) {
	exe, bill, err := compile(ctx, o, stage, agentName, "windows", arch)
	if err != nil {
		return nil, err
	}
	if err := signBy(ctx, o.windowsProgramSigner, exe); err != nil {
		return nil, err
	}
	name, err := writeMSI(ctx, o, stage, arch, exe)
	if err != nil {
		return nil, err
	}
	return []string{bill, name}, signBy(ctx, o.windowsPackageSigner, filepath.Join(stage, name))
}

// writeMSI writes the package around exe into dir, and gives the file's name.
func writeMSI(ctx context.Context, o order, dir, arch, exe string) (name string, err error) {
	work, err := os.MkdirTemp(dir, "msi-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	raw, err := os.ReadFile(exe)
	if err != nil {
		return "", err
	}
	inside := filepath.Join(work, msiFile)
	if err := os.WriteFile(inside, raw, 0o755); err != nil {
		return "", err
	}
	if err := os.Chtimes(inside, o.when, o.when); err != nil {
		return "", err
	}
	tables, err := product{o, arch, int64(len(raw)), fmt.Sprintf("%x", sha256.Sum256(raw))}.tables()
	if err != nil {
		return "", err
	}
	name = agentName + "-" + o.bare() + "-" + msiArchs[arch].name + ".msi"
	args := []string{filepath.Join("..", name)}
	for _, t := range tables {
		if err := os.WriteFile(filepath.Join(work, t.name+".idt"), t.idt(), 0o644); err != nil {
			return "", err
		}
		args = append(args, "-i", t.name+".idt")
	}
	call := func(tool string, args ...string) error {
		cmd := exec.CommandContext(ctx, tool, args...)
		cmd.Dir = work
		cmd.Env = append(os.Environ(), "TZ=UTC") // a cabinet has local time
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", tool, err, out)
		}
		return nil
	}
	if err := call("gcab", "--create", "--zip", "--nopath", msiCabinet, msiFile); err != nil {
		return "", err
	}
	return name, call("msibuild", append(args, "-a", msiCabinet, msiCabinet)...)
}
