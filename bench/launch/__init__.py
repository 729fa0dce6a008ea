"""Running trial folders: one fresh process per trial, one trial per free device."""
