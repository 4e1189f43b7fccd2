package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxName bounds the name of a socket in its folder. Sockets are bound and
	// connected as /proc/self/fd/N/NAME, so that the folder may be as deep as
	// it likes; all of that must fit the 108 bytes of sun_path (unix(7)).
	maxName = 80

	// lockWait is how long another process may take to make or remove a
	// socket in the same folder.
	lockWait = 5 * time.Second
)

// Listen makes a unix socket that only this user and root can open, and
// listens on it. It makes the folder if that is missing and its parent is not.
// A folder that others can enter or write, or that is somebody else's, is
// refused: they could put their own socket in the place of this one. A socket
// that is left of a server that is no more is removed, one on which somebody
// listens is not.
//
// Close removes the socket if it is still this one.
func Listen(path string) (net.Listener, error) {
	name := filepath.Base(path)
	if len(name) > maxName || name == "." || name == ".." || name == "/" {
		return nil, errorf(fmt.Sprintf("give it a name of at most %d bytes", maxName), "%s cannot be the path of a socket", path)
	}
	dir, err := openOwn(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	l, err := dir.listen(name, path)
	if err != nil {
		unix.Close(dir.fd)
		return nil, err
	}
	return l, nil
}

// A folder is an open one: what happens to its path meanwhile does not matter.
type folder struct{ fd int }

// openOwn opens a folder of ours, which it makes if need be.
func openOwn(path string) (folder, error) {
	switch err := os.Mkdir(path, 0o700); {
	case errors.Is(err, fs.ErrNotExist):
		return folder{}, errorf("make "+filepath.Dir(path)+" first", "making the folder %s: its parent does not exist", path)
	case err != nil && !errors.Is(err, fs.ErrExist):
		return folder{}, fmt.Errorf("making the folder of the admin socket: %w", err)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOTDIR) {
		return folder{}, errorf("name another folder", "%s is not a folder, or is a link to one", path)
	}
	if err != nil {
		return folder{}, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	if err := checkOwn(fd, path); err != nil {
		unix.Close(fd)
		return folder{}, err
	}
	return folder{fd}, nil
}

func checkOwn(fd int, path string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return errorf("the folder of the admin socket must be root's, or of the user that serves: "+userName(os.Geteuid()), "%s belongs to %s", path, userName(int(st.Uid)))
	}
	if st.Mode&0o033 != 0 {
		return errorf("chmod 0700 "+path+", or name a folder of its own", "%s can be entered or written by others than its owner (mode %04o)", path, st.Mode&0o7777)
	}
	return nil
}

// at is a path of what has a name in the folder, and a short one.
func (f folder) at(name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", f.fd, name) }

// lock holds the folder against others who make or remove sockets in it.
func (f folder) lock() (unlock func(), err error) {
	for end := time.Now().Add(lockWait); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Flock(f.fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { unix.Flock(f.fd, unix.LOCK_UN) }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(end) {
			return nil, fmt.Errorf("locking the folder of the admin socket: %w", err)
		}
	}
}

func (f folder) listen(name, path string) (*listener, error) {
	unlock, err := f.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := f.removeStale(name, path); err != nil {
		return nil, err
	}
	// The mode of a socket that is not bound yet becomes that of its file:
	// Linux makes it of the inode's and the umask. So there is no moment in
	// which the file is wider.
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, failed)
	}}
	bound, err := config.Listen(context.Background(), "unix", f.at(name))
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, errnoOf(err))
	}
	l := &listener{UnixListener: bound.(*net.UnixListener), folder: f, name: name, path: path}
	l.SetUnlinkOnClose(false) // it would remove whatever has the name by then
	st, err := f.stat(name)
	if err == nil && st.Mode&0o777&^0o600 != 0 {
		unix.Unlinkat(f.fd, name, 0)
		err = fmt.Errorf("the socket was made with mode %04o", st.Mode&0o7777)
	}
	if err != nil {
		bound.Close()
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	l.dev, l.ino = uint64(st.Dev), st.Ino
	return l, nil
}

func (f folder) stat(name string) (st unix.Stat_t, err error) {
	err = unix.Fstatat(f.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

// removeStale makes room for a socket: it removes one on which nobody
// listens, and nothing else.
func (f folder) removeStale(name, path string) error {
	st, err := f.stat(name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return errorf("move it away, or name another socket", "%s is not a socket", path)
	}
	switch err := probe(f.at(name)); {
	case errors.Is(err, unix.ECONNREFUSED):
		if err := unix.Unlinkat(f.fd, name, 0); err != nil {
			return &fs.PathError{Op: "removing a socket that is left over", Path: path, Err: err}
		}
		return nil
	case err == nil, errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EPROTOTYPE): // even with a full queue, even of another kind
		return errorf("stop the other one first, or name another socket", "somebody listens on %s already", path)
	default:
		return fmt.Errorf("looking who listens on %s: %w", path, err)
	}
}

// probe connects to a socket without waiting for anybody.
func probe(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrUnix{Name: path})
}

// listener is a net.UnixListener that knows its file.
type listener struct {
	*net.UnixListener
	folder     folder
	name, path string
	dev, ino   uint64

	once   sync.Once
	closed error
}

func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close removes the file first, since whoever finds a socket expects somebody
// behind it; and then it cannot be that another file has the same number.
func (l *listener) Close() error {
	l.once.Do(func() {
		defer unix.Close(l.folder.fd)
		removed := l.remove()
		l.closed = errors.Join(l.UnixListener.Close(), removed)
	})
	return l.closed
}

func (l *listener) remove() error {
	unlock, err := l.folder.lock()
	if err != nil {
		return err // the next one to listen removes it
	}
	defer unlock()
	st, err := l.folder.stat(l.name)
	if err != nil || uint64(st.Dev) != l.dev || st.Ino != l.ino {
		return nil // it is another's, or gone
	}
	if err := unix.Unlinkat(l.folder.fd, l.name, 0); err != nil {
		return &fs.PathError{Op: "remove", Path: l.path, Err: err}
	}
	return nil
}

// dial connects to a socket, whose queue may be full for a while.
func dial(ctx context.Context, path string) (*net.UnixConn, error) {
	name := filepath.Base(path)
	if len(name) > maxName {
		return nil, unix.ENAMETOOLONG
	}
	fd, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", folder{fd}.at(name))
		if err == nil {
			return conn.(*net.UnixConn), nil
		}
		if !errors.Is(err, unix.EAGAIN) {
			return nil, errnoOf(err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// errnoOf is what is said of a failure, without the path under /proc.
func errnoOf(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// credentials tells who is at the other end, as the kernel noted it when the
// connection was made: for a server who connected, for a client who listens.
func credentials(c net.Conn) (*unix.Ucred, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.New("not a unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	return cred, failed
}

func userName(uid int) string {
	if uid == 0 {
		return "root"
	}
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return "user " + strconv.Itoa(uid)
}
