package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"sekisho/authz"
)

func newRevoke(std stdio) *cobra.Command {
	var c lockCommand
	var authority, file string
	var undo, anyway bool
	cmd := &cobra.Command{
		Use:   "revoke FINGERPRINT|SERIAL",
		Short: "Let a key or certificate in no more, at once",
		Long: `Revoke ends what was opened by a key or certificate and takes it no more, within a
second and whatever the policy says: a key, or an authority's key with all its
certificates, by its fingerprint, or a certificate by its serial. It works while
the policy has errors, and survives a restart.

ssh-keygen -lf FILE prints a fingerprint, and ssh-keygen -Lf FILE a serial. Lists
that ssh-keygen -k makes are read, too: see the setting "revoked_keys".`,
		Example: `  sekisho revoke SHA256:uNiVztksCsDhcc0u9e8BrrJdhrOPZi9nGJ5Hb0vMx0s
  sekisho revoke 17 --authority corp --why "laptop stolen"
  sekisho revoke --key alice.pub`,
		Args: atMostOneWord("fingerprint or serial"),
		RunE: func(cmd *cobra.Command, args []string) error {
			what, err := whatToRevoke(args, file, authority, std.in)
			if err != nil {
				return err
			}
			return c.change(cmd, std, func(s *setup, locks *authz.Locks) (*authz.Locks, string, error) {
				switch has := locks.Has(what) != nil; {
				case undo && !has:
					return nil, "", failf("sekisho lock lists what is", "%s is not revoked", what)
				case undo:
					return locks.Without(c.sign(what)), what.String() + " is no longer revoked", nil
				case has:
					return nil, what.String() + " is revoked already", nil
				}
				if !anyway && what.Authority != "" {
					if err := s.known(cmd.Context(), wantKnown{Authority: what.Authority}); err != nil {
						return nil, "", err
					}
				}
				return locks.With(c.sign(what)), what.String() + " is revoked", nil
			})
		},
	}
	c.addFlags(cmd, true)
	f := cmd.Flags()
	f.StringVar(&authority, "authority", "", "the `name` of the authority whose serial it is (default: every authority)")
	f.StringVar(&file, "key", "", "the `file` with the public key, in place of its fingerprint")
	f.BoolVar(&undo, "undo", false, "take the revocation back")
	f.BoolVar(&anyway, "anyway", false, "also for an authority that the policy does not have")
	return cmd
}

// whatToRevoke reads the fingerprint or serial of a command line.
func whatToRevoke(args []string, file, authority string, in io.Reader) (authz.Lock, error) {
	const hint = "give a fingerprint, SHA256:…, as ssh-keygen -lf prints it, or the number of a serial"
	if (len(args) == 0) == (file == "") {
		return authz.Lock{}, usagef(hint, "what is to be revoked is one fingerprint or serial, or one --key")
	}
	if file != "" {
		text, err := readKeyText(file, in)
		if err != nil {
			return authz.Lock{}, err
		}
		if cert, _ := parseCert(text); cert != nil {
			hint := fmt.Sprintf("revoke %d, with --authority NAME if serials are not unique, or the key itself, %s", cert.Serial, ssh.FingerprintSHA256(cert.Key))
			if cert.Serial == 0 {
				hint = "it has no serial; revoke the key itself, " + ssh.FingerprintSHA256(cert.Key)
			}
			return authz.Lock{}, failf(hint, "%s is a certificate, and --key takes a key", file)
		}
		if file == "-" {
			in = bytes.NewReader(text)
		}
		keys, err := readUserKeys(file, in)
		if err != nil {
			return authz.Lock{}, err
		}
		if len(keys) != 1 {
			return authz.Lock{}, failf("give a file with that one key", "%s has %s", file, many(len(keys), "key"))
		}
		return authz.Lock{Key: ssh.FingerprintSHA256(keys[0].key)}, nil
	}
	if serial, err := strconv.ParseUint(args[0], 10, 64); err == nil {
		if serial == 0 {
			return authz.Lock{}, failf("revoke the key, or lock the user", "0 is the serial of every certificate that was given none")
		}
		return authz.Lock{Serial: serial, Authority: authority}, nil
	}
	if authority != "" {
		return authz.Lock{}, usagef("leave --authority away, or give a serial", "--authority is about a serial, and %q is none", args[0])
	}
	digest := strings.TrimRight(strings.TrimPrefix(args[0], "SHA256:"), "=")
	sum, err := base64.RawStdEncoding.DecodeString(digest)
	if err != nil || len(sum) != 32 {
		return authz.Lock{}, usagef(hint, "%q is neither a fingerprint nor a serial", args[0])
	}
	return authz.Lock{Key: "SHA256:" + base64.RawStdEncoding.EncodeToString(sum)}, nil // in the one form that keys are compared in
}
