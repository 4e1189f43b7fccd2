package main

import (
	"os"
	"path/filepath"
	"reflect"

	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/ssh"

	"sekisho/authz/strictyaml"
)

// reloadHostKeys takes over the host keys and certificates that sekisho.yaml
// names now, for the handshakes that begin from then on: a key can be changed,
// and a certificate signed anew, without ending what runs. Nothing else of the
// settings is taken over.
func (svc *service) reloadHostKeys() strictyaml.Problems {
	svc.reloading.Lock()
	defer svc.reloading.Unlock()
	s := svc.setup
	fresh, problems := loadSettings(s.config, s.given, s.environ)
	if problems.Err() == nil {
		problems = fresh.readHostKeys()
		m := newModes(filepath.Dir(s.config), s.path(s.settings.Audit.Dir), os.Geteuid())
		fresh.hostKeyModes(m)
		problems = append(problems, m.problems...)
	}
	if problems.Err() == nil {
		if err := svc.server.SetHostKeys(fresh.hostKeys, fresh.hostCerts); err != nil {
			problems = append(problems, strictyaml.Problem{File: s.config, Message: err.Error()})
		}
	}
	if problems.Err() != nil {
		logProblems(svc.log, problems)
		svc.log.Error("the host keys are not taken over: those that were in force stay")
		svc.attempts.bad("host_keys", texts(problems))
		return problems
	}
	svc.attempts.good("host_keys")
	changed := !sameHostKeys(s, fresh)
	s.hostKeys, s.hostCerts = fresh.hostKeys, fresh.hostCerts
	s.settings.HostKeys, s.settings.HostCertificates = fresh.settings.HostKeys, fresh.settings.HostCertificates
	if changed {
		logProblems(svc.log, problems)
		svc.attempts.taken("host_keys")
		svc.log.Info("host keys reloaded")
		svc.sayHostKeys()
	}
	return problems
}

func sameHostKeys(a, b *setup) bool {
	blobs := func(s *setup) (all []string) {
		for _, key := range s.hostKeys {
			all = append(all, string(key.PublicKey().Marshal()))
		}
		for _, cert := range s.hostCerts {
			all = append(all, string(cert.Marshal()))
		}
		return all
	}
	return reflect.DeepEqual(blobs(a), blobs(b))
}

// settingsChanged reports whether sekisho.yaml says something else than what the
// server runs with, beside the host keys.
func (svc *service) settingsChanged() bool {
	s := svc.setup
	fresh, problems := loadSettings(s.config, s.given, s.environ)
	now := fresh.settings
	now.HostKeys, now.HostCertificates = s.settings.HostKeys, s.settings.HostCertificates
	return problems.Err() != nil || !reflect.DeepEqual(now, s.settings)
}

// sayHostKeys tells by what clients know the server.
func (svc *service) sayHostKeys() {
	for i, key := range svc.setup.hostKeys {
		line := svc.log.WithFields(logrus.Fields{"type": keyType(key.PublicKey()), "fingerprint": ssh.FingerprintSHA256(key.PublicKey())})
		if usedKey(svc.setup.hostKeys, i) {
			line.Info("host key")
		} else {
			line.Info("host key, announced and not used")
		}
	}
	for _, cert := range svc.setup.hostCerts {
		svc.log.WithFields(logrus.Fields{"type": keyType(cert.Key), "authority": ssh.FingerprintSHA256(cert.SignatureKey), "hosts": certNames(cert)}).Info("host certificate")
	}
}
