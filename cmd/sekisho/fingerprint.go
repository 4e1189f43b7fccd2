package main

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
)

func newFingerprint(std stdio) *cobra.Command {
	var w where
	var hosts []string
	var port int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "fingerprint [DIR|FILE]",
		Short: "Print the fingerprints of the host keys",
		Long: `Fingerprint prints, for each host key, what clients show when they meet the server
for the first time: SHA256 (OpenSSH, PuTTY), SHA-1 (MySQL Workbench) and MD5 (old
tools); then lines for known_hosts, by which clients need not ask at all, and SSHFP
records for a DNS zone that is signed. The private keys need not be readable where
their .pub files are. FILE is one key, private or public.`,
		Example: `  sekisho fingerprint /etc/sekisho --host bastion.example
  sekisho fingerprint --json | jq -r '.keys[].sha256'`,
		Args: atMostOneWord("folder or file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, host := range hosts {
				if !goodHost(host) {
					return usagef("write a name such as bastion.example, or an address", "%q is not the name of a host", host)
				}
			}
			if cmd.Flags().Changed("port") && (port < 1 || port > 65535) {
				return usagef("a port is a number from 1 to 65535", "%d is not a port", port)
			}
			shown, err := w.fingerprints(cmd, args)
			if err != nil {
				return err
			}
			if len(hosts) > 0 {
				shown.Hosts = hosts
			}
			if port != 0 {
				shown.Port = port
			}
			shown.fill()
			if asJSON {
				return printJSON(std.out, shown)
			}
			shown.print(std.out)
			if len(hosts) == 0 {
				fmt.Fprintf(std.err, "sekisho: hint: --host NAME names the server as those who connect do\n")
			}
			return nil
		},
	}
	w.addConfig(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&hosts, "host", nil, "a `name` or address by which clients connect; may be given several times (default: this machine's name)")
	f.IntVar(&port, "port", 0, "the `number` of the port to which clients connect (default: the first of listen; 22 for a FILE)")
	f.BoolVar(&asJSON, "json", false, "print the fingerprints as JSON")
	return cmd
}

// A fingerprintsOf is what is told of host keys.
type fingerprintsOf struct {
	Hosts       []string         `json:"hosts"`
	Port        int              `json:"port"`
	Keys        []keyFingerprint `json:"keys"`
	Authorities []string         `json:"authorities,omitempty"` // lines for known_hosts, of those who signed host certificates

	authorities []ssh.PublicKey
}

// A keyFingerprint is a public key in the forms in which people meet it.
type keyFingerprint struct {
	File       string   `json:"file"`
	Type       string   `json:"type"`
	Use        string   `json:"use,omitempty"` // used or announced; "" of a key that was named
	SHA256     string   `json:"sha256"`
	SHA1       string   `json:"sha1"`
	MD5        string   `json:"md5"`
	Public     string   `json:"public"`
	KnownHosts string   `json:"known_hosts"`
	SSHFP      []string `json:"sshfp"`

	key ssh.PublicKey
}

// fingerprints reads the keys that the command line means.
func (w *where) fingerprints(cmd *cobra.Command, args []string) (*fingerprintsOf, error) {
	shown := &fingerprintsOf{Hosts: []string{defaultName()}, Port: 22}
	if len(args) == 1 {
		if info, err := os.Stat(args[0]); err != nil || !info.IsDir() {
			if w.config != "" {
				return nil, usagef("give one of the two", "the key %s and --config %s name two places", args[0], w.config)
			}
			key, file, err := readPublicHalf(args[0])
			if err != nil {
				return nil, err
			}
			shown.Keys = []keyFingerprint{{File: file, key: key}}
			return shown, nil
		}
	}
	config, err := w.findConfig(cmd, args)
	if err != nil {
		return nil, err
	}
	s, problems := loadSettings(config, nil, os.Environ())
	if problems.Err() != nil {
		return nil, &badFiles{problems}
	}
	shown.Port = s.port()
	types := map[string]bool{}
	for _, path := range s.paths(s.settings.HostKeys) {
		key, file, err := readPublicHalf(path)
		if err != nil {
			return nil, err
		}
		use := "used"
		if types[key.Type()] {
			use = "announced"
		}
		types[key.Type()] = true
		shown.Keys = append(shown.Keys, keyFingerprint{File: file, Use: use, key: key})
	}
	for _, path := range s.paths(s.settings.HostCertificates) {
		content, err := readFile(path)
		if err != nil {
			return nil, failf("", "%s cannot be read: %v", path, reason(err))
		}
		if key, _, _, _, err := ssh.ParseAuthorizedKey(content); err == nil {
			if cert, ok := key.(*ssh.Certificate); ok {
				shown.authorities = append(shown.authorities, cert.SignatureKey)
			}
		}
	}
	return shown, nil
}

// readPublicHalf reads the public half of a key: of a private one, or of the .pub
// file beside one that is not for everybody to read.
func readPublicHalf(path string) (key ssh.PublicKey, file string, err error) {
	content, err := readFile(path)
	if errors.Is(err, os.ErrPermission) && !isNotExist(path+".pub") {
		path += ".pub"
		content, err = readFile(path)
	}
	if err != nil {
		hint := ""
		if errors.Is(err, os.ErrPermission) {
			hint = "run it as the user to whom the files belong, or put the .pub file beside it"
		}
		return nil, path, failf(hint, "%s cannot be read: %v", path, reason(err))
	}
	if bytes.Contains(content, []byte("PRIVATE KEY-----")) {
		signer, err := ssh.ParsePrivateKey(content)
		var encrypted *ssh.PassphraseMissingError
		switch {
		case err == nil:
			return signer.PublicKey(), path, nil
		case errors.As(err, &encrypted) && encrypted.PublicKey != nil:
			return encrypted.PublicKey, path, nil
		}
		return nil, path, failf("", "%s is not a private key: %v", path, err)
	}
	key, _, _, _, err = ssh.ParseAuthorizedKey(content)
	if err != nil {
		return nil, path, failf("name a key, a .pub file, or the folder of sekisho.yaml", "%s is no key: %v", path, err)
	}
	if cert, ok := key.(*ssh.Certificate); ok {
		key = cert.Key
	}
	return key, path, nil
}

// port is the one to which clients connect: the first that is listened on.
func (s *setup) port() int {
	address := s.settings.Listen[0]
	if port, err := strconv.Atoi(address[strings.LastIndexByte(address, ':')+1:]); err == nil && port > 0 {
		return port
	}
	return 22
}

// fill computes what is told.
func (f *fingerprintsOf) fill() {
	for i := range f.Keys {
		k := &f.Keys[i]
		blob := k.key.Marshal()
		short, long := sha1.Sum(blob), sha256.Sum256(blob)
		k.Type, k.Public = keyType(k.key), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.key)))
		k.SHA256, k.SHA1, k.MD5 = ssh.FingerprintSHA256(k.key), colons(short[:]), ssh.FingerprintLegacyMD5(k.key)
		k.KnownHosts = knownHosts(f.Hosts, f.Port) + " " + k.Public
		k.SSHFP = []string{}
		if number := sshfpAlgorithm(k.key.Type()); number != 0 {
			for _, host := range f.Hosts {
				if _, err := netip.ParseAddr(host); err == nil {
					continue // a record is of a name
				}
				k.SSHFP = append(k.SSHFP, fmt.Sprintf("%s IN SSHFP %d 1 %x", host, number, short), fmt.Sprintf("%s IN SSHFP %d 2 %x", host, number, long))
			}
		}
	}
	seen := map[string]bool{}
	for _, authority := range f.authorities {
		line := "@cert-authority " + knownHosts(f.Hosts, f.Port) + " " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(authority)))
		if !seen[line] {
			seen[line] = true
			f.Authorities = append(f.Authorities, line)
		}
	}
}

func (f *fingerprintsOf) print(w io.Writer) {
	for _, k := range f.Keys {
		use := ""
		switch k.Use {
		case "used":
			use = ", used"
		case "announced":
			use = ", announced and not used"
		}
		fmt.Fprintf(w, "%s (%s%s)\n", printable(k.File), k.Type, use)
		fmt.Fprintf(w, "  SHA256  %s\n  SHA-1   %s\n  MD5     %s\n", k.SHA256, k.SHA1, k.MD5)
	}
	fmt.Fprintf(w, "\n# known_hosts\n")
	for _, line := range f.Authorities {
		fmt.Fprintln(w, line)
	}
	records := false
	for _, k := range f.Keys {
		fmt.Fprintln(w, k.KnownHosts)
		records = records || len(k.SSHFP) > 0
	}
	if !records {
		return
	}
	fmt.Fprintf(w, "\n# SSHFP\n")
	for _, k := range f.Keys {
		for _, line := range k.SSHFP {
			fmt.Fprintln(w, line)
		}
	}
}

// sshfpAlgorithm is the number of a key's algorithm in SSHFP records: RFC 4255,
// RFC 6594 and RFC 7479. 0: it has none.
func sshfpAlgorithm(t string) int {
	switch t {
	case ssh.KeyAlgoRSA:
		return 1
	case ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
		return 3
	case ssh.KeyAlgoED25519:
		return 4
	}
	return 0
}

// knownHosts names hosts as known_hosts does.
func knownHosts(hosts []string, port int) string {
	names := make([]string, len(hosts))
	for i, host := range hosts {
		names[i] = strings.ToLower(host)
		if port != 22 {
			names[i] = "[" + names[i] + "]:" + strconv.Itoa(port)
		}
	}
	return strings.Join(names, ",")
}

func colons(b []byte) string {
	pairs := make([]string, len(b))
	for i := range b {
		pairs[i] = hex.EncodeToString(b[i : i+1])
	}
	return strings.Join(pairs, ":")
}

var hostForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,252})$`)

// goodHost reports whether a word can stand for a host in these lines.
func goodHost(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Zone() == "" || hostForm.MatchString(host)
}
