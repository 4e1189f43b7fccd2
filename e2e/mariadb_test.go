//go:build linux

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
)

// realMariaDB runs one MariaDB for all tests and returns its address.
var realMariaDB = sync.OnceValues(func() (addr string, err error) {
	dir := filepath.Join(sharedDir, "mariadb")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	runAs := "mysql"
	if os.Getuid() != 0 {
		me, err := user.Current()
		if err != nil {
			return "", err
		}
		runAs = me.Username
	} else {
		u, err := user.Lookup(runAs)
		if err != nil {
			return "", err
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		if err := os.Chown(dir, uid, gid); err != nil {
			return "", err
		}
	}
	data := filepath.Join(dir, "data")
	out, err := exec.Command("mariadb-install-db", "--no-defaults", "--datadir="+data, "--user="+runAs,
		"--skip-test-db", "--auth-root-authentication-method=normal").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("mariadb-install-db: %v\n%s", err, out)
	}
	accounts := filepath.Join(dir, "accounts.sql")
	if err := os.WriteFile(accounts, []byte("CREATE USER app@'%' IDENTIFIED BY '"+databasePassword+"';\nCREATE DATABASE shop;\nGRANT ALL ON shop.* TO app@'%';\n"), 0o644); err != nil {
		return "", err
	}
	l, err := net.Listen("tcp", rdsIP+":0")
	if err != nil {
		return "", err
	}
	addr = l.Addr().String()
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	p, err := launch(exec.Command("mariadbd", "--no-defaults", "--datadir="+data, "--user="+runAs,
		"--bind-address="+rdsIP, fmt.Sprintf("--port=%d", port), "--socket="+filepath.Join(dir, "sock"),
		"--pid-file="+filepath.Join(dir, "pid"), "--init-file="+accounts, "--skip-name-resolve",
		"--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=0"))
	if err != nil {
		return "", err
	}
	shared.mu.Lock()
	shared.procs = append(shared.procs, p)
	shared.mu.Unlock()
	return addr, awaitPort(p, addr)
})

const databasePassword = "not-a-secret-at-all"

// rds is the private host rds: a tap of this test's own before MariaDB.
func rds(t *testing.T) *tap {
	t.Helper()
	addr, err := realMariaDB()
	if err != nil {
		t.Fatal(err)
	}
	return newTap(t, rdsIP, addr)
}
