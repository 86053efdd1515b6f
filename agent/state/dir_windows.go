package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/windows"
)

// DefaultDir is where the service keeps its state: %ProgramData%\GuruRMM\Agent.
func DefaultDir() (string, error) {
	base, err := windows.KnownFolderPath(windows.FOLDERID_ProgramData, windows.KF_FLAG_DEFAULT)
	if err != nil {
		return "", fmt.Errorf("no state directory by default: %w", err)
	}
	return filepath.Join(base, "GuruRMM", "Agent"), nil
}

// private is the security descriptor of the directory: protected from what
// %ProgramData% would pass down (there every user may create files), full access
// for SYSTEM, Administrators and this account, passed down to all files in it.
func private() (*windows.SECURITY_DESCRIPTOR, *windows.SID, error) {
	user, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return nil, nil, err
	}
	sid := user.User.Sid
	sd, err := windows.SecurityDescriptorFromString(
		"D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FA;;;" + sid.String() + ")")
	return sd, sid, err
}

// makeParent makes the vendor's directory private too: %ProgramData% would let
// every user in, and who may change it may put another directory in the place of ours. One
// that is there belongs to SYSTEM, Administrators, Windows' own installer or this account.
func makeParent(dir string) error {
	if _, err := os.Lstat(dir); err == nil {
		owner, err := ownerOf(dir)
		if err != nil {
			return fmt.Errorf("%w: %s: owner: %w", ErrNotPrivate, dir, err)
		}
		_, self, err := private()
		if err != nil {
			return err
		}
		if !trusted(owner, self) && owner.String() != trustedInstaller {
			return fmt.Errorf("%w: %s belongs to %s, who may put another directory in the place of ours; remove it, or name another one",
				ErrNotPrivate, dir, owner)
		}
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := makePrivate(dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// trustedInstaller is the service that owns what comes with Windows, as C:\.
const trustedInstaller = "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"

// ownerOf is who owns what is at path: a link or a junction itself, and not what it leads to.
func ownerOf(path string) (*windows.SID, error) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return nil, err
	}
	h, err := windows.CreateFile(name, windows.READ_CONTROL, windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE|windows.FILE_SHARE_DELETE,
		nil, windows.OPEN_EXISTING, windows.FILE_FLAG_OPEN_REPARSE_POINT|windows.FILE_FLAG_BACKUP_SEMANTICS, 0)
	if err != nil {
		return nil, err
	}
	defer windows.CloseHandle(h)
	sd, err := windows.GetSecurityInfo(h, windows.SE_FILE_OBJECT, windows.OWNER_SECURITY_INFORMATION)
	if err != nil {
		return nil, err
	}
	owner, _, err := sd.Owner()
	return owner, err
}

func makePrivate(dir string) error {
	sd, _, err := private()
	if err != nil {
		return err
	}
	name, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return err
	}
	sa := windows.SecurityAttributes{SecurityDescriptor: sd}
	sa.Length = uint32(unsafe.Sizeof(sa))
	return windows.CreateDirectory(name, &sa)
}

func ensurePrivate(dir string) error {
	sd, self, err := private()
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrNotPrivate, dir, err)
	}
	have, err := windows.GetNamedSecurityInfo(dir, windows.SE_FILE_OBJECT,
		windows.OWNER_SECURITY_INFORMATION|windows.DACL_SECURITY_INFORMATION)
	if err != nil {
		return fmt.Errorf("%w: %s: owner: %w", ErrNotPrivate, dir, err)
	}
	owner, _, err := have.Owner()
	if err != nil {
		return fmt.Errorf("%w: %s: owner: %w", ErrNotPrivate, dir, err)
	}
	// Whoever owns it can change its access list at any time.
	if !trusted(owner, self) {
		return fmt.Errorf("%w: %s belongs to %s, not to SYSTEM, Administrators or this account", ErrNotPrivate, dir, owner)
	}
	if openToOthers(have, self) {
		held, err := os.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrNotPrivate, dir, err)
		}
		var names []string
		for _, e := range held {
			names = append(names, e.Name())
		}
		own := func(name string) bool {
			owner, err := ownerOf(filepath.Join(dir, name))
			return err == nil && trusted(owner, self)
		}
		if taken(names, false, own) {
			return refuseTaken(dir)
		}
	}
	dacl, _, err := sd.DACL()
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrNotPrivate, dir, err)
	}
	err = windows.SetNamedSecurityInfo(dir, windows.SE_FILE_OBJECT,
		windows.DACL_SECURITY_INFORMATION|windows.PROTECTED_DACL_SECURITY_INFORMATION, nil, nil, dacl, nil)
	if err != nil {
		return fmt.Errorf("%w: %s: set access list: %w", ErrNotPrivate, dir, err)
	}
	return nil
}

func trusted(sid, self *windows.SID) bool {
	return sid != nil && (sid.Equals(self) || sid.IsWellKnown(windows.WinLocalSystemSid) ||
		sid.IsWellKnown(windows.WinBuiltinAdministratorsSid))
}

// openToOthers reports whether an access list may let anybody else in; one that
// can't be read may.
func openToOthers(sd *windows.SECURITY_DESCRIPTOR, self *windows.SID) bool {
	dacl, _, err := sd.DACL()
	if err != nil || dacl == nil {
		return true
	}
	for i := range uint32(dacl.AceCount) {
		var ace *windows.ACCESS_ALLOWED_ACE
		if err := windows.GetAce(dacl, i, &ace); err != nil {
			return true
		}
		switch ace.Header.AceType {
		case windows.ACCESS_DENIED_ACE_TYPE:
		case windows.ACCESS_ALLOWED_ACE_TYPE:
			if !trusted((*windows.SID)(unsafe.Pointer(&ace.SidStart)), self) {
				return true
			}
		default:
			return true
		}
	}
	return false
}

// exposedTo says who but this account can get at the directory; nil: nobody.
func exposedTo(dir string, _ os.FileInfo) error {
	_, self, err := private()
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrNotPrivate, dir, err)
	}
	have, err := windows.GetNamedSecurityInfo(dir, windows.SE_FILE_OBJECT,
		windows.OWNER_SECURITY_INFORMATION|windows.DACL_SECURITY_INFORMATION)
	if err != nil {
		return fmt.Errorf("%w: %s: owner: %w", ErrNotPrivate, dir, err)
	}
	if openToOthers(have, self) {
		return fmt.Errorf("%w: the access list of %s lets others in", ErrNotPrivate, dir)
	}
	return nil
}

// PrivateBy is the command by which a person makes the directory private: first
// without what others were given, then without what is passed down to it, for
// SYSTEM and Administrators (by their SIDs: the names are translated).
func PrivateBy(dir string) string {
	return `icacls "` + dir + `" /reset, then icacls "` + dir + `" /inheritance:r /grant:r "*S-1-5-18:(OI)(CI)F" "*S-1-5-32-544:(OI)(CI)F"`
}
