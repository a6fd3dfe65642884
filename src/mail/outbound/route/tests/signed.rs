//! DANE against zones with real signatures (rows S6 to S8).
